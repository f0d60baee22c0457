-- What an article needs and plain HTML has no element for: a title block, numbers of figures,
-- pictures with their alternative text. Cells come as divs whose classes are their tags.
local stringify, warn = pandoc.utils.stringify, pandoc.log.warn
local typst, latex = FORMAT == 'typst', FORMAT == 'latex'
local MACRO = '(\\%a*command%*?%s*{?(\\%a+)}?%s*%[?%d?%]?%s*%b{})'
local LINE, PAGE, PIXEL = 476, 646, 0.522 -- in points; a figure of 9.5 inches fills a line
local macros, pictures, known, numbers, meta = {}, 0, {}, {}, nil

local function formula(math) -- knows the macros of those before
  local text = math.text:gsub(MACRO, function(definition, name)
    table.insert(macros, 1, {definition, name .. '%f[%A]'}) return ''
  end)
  for _, macro in ipairs(macros) do if text:find(macro[2]) then text = macro[1] .. text end end
  math.text = text
  return text:find '%S' and (meta.spelled and pandoc.Code(text) or math) or {}
end

local function picture(image) -- its text and address where it is not on this machine
  local alt, src = stringify(image.caption), image.src
  local remote = src:match '^%a[%w+.-]+://' or src:match '^//'
  local found, kind, data = pcall(pandoc.mediabag.fetch, remote and '' or src)
  local ending = ('png jpeg gif webp svg'):match(found and kind:match '^image/(%a+)' or '?')
  local measured, size = pcall(pandoc.image.size, data or '')
  if not ending or not measured then
    src = src:gsub('^data:.*', 'picture')
    warn('a picture is not shown: ' .. src)
    return pandoc.Str(('[%s%s]'):format(alt ~= '' and alt .. ': ' or '', src))
  elseif typst or latex then
    local number, percent = (image.attributes.width or ''):match '^([%d.]+)(%%?)'
    local points = percent == '%' and number * LINE / 100 or (number or size.width) * PIXEL
    points = math.min(points, LINE, PAGE * size.width / size.height)
    pictures = pictures + 1
    local name = ('%s-%d.%s'):format(stringify(meta.name):gsub('[%%#]', '-'), pictures, ending)
    pandoc.mediabag.insert(name, kind, data)
    return pandoc.RawInline(FORMAT, typst
      and ('#box(image(%q, alt: %s, width: %.1fpt));'):format(name, pandoc.json.encode(alt), points)
      or ('\\includegraphics[width=%.1fbp]{%s}'):format(points, name:gsub('%.[gsw]%a+$', '.pdf')))
  end
end

local function line(inlines) -- Typst reads "#strong[a].b" as a field, a table's "1." as a list
  for i = #inlines, 1, -1 do
    local text = typst and inlines[i].t == 'Str' and inlines[i].text or ''
    local list = i == 1 and (text:match '^[-+=/]+$' or text:match '^%d+%.$')
    if list or text:match '^%.' then inlines:insert(i, pandoc.RawInline('typst', '\\')) end
  end
  return inlines
end

local function raw(html) -- what is folded away stays so; pandoc knows no other element
  return (html.text:match '^</?details' or html.text:match '^</?summary') and html or {}
end

local function cell(div)
  local is = function(class) return div.classes:includes(class) end
  if is 'authors' and div.content[1] then
    meta.author = {div.content:remove(1).content}
    meta.date = pandoc.utils.blocks_to_inlines(div.content, {pandoc.LineBreak()}) return {}
  elseif is 'abstract' then
    meta.abstract = div.content return {}
  elseif is 'script' and #div.content == 0 then
    div.content:insert(pandoc.Para '[interactive output, not shown here]')
  end
  local own = div.content:map(function(b) return b.t == 'Plain' and pandoc.Para(b.content) or b end)
  return div.identifier == '' and own or pandoc.Div(own, {id = div.identifier})
end

local function columns(grid) -- LaTeX wraps text only in columns of a given width
  local rows = #grid.head.rows + (grid.bodies[1] and #grid.bodies[1].body or 0)
  local width = latex and #stringify(grid) > 95 * rows and 1 / #grid.colspecs
  local right = grid.classes:includes 'dataframe' and pandoc.AlignRight -- for its numbers
  for i, col in ipairs(grid.colspecs) do grid.colspecs[i] = {right or col[1], width or col[2]} end
  return grid
end

local function sections(blocks) -- the first heading is the title; those of an article are numbered
  local heading, least = function(block) return block.t == 'Header' end, 6
  local title, place = blocks:find_if(heading)
  meta.title = title and title.level == 1 and blocks:remove(place).content or meta.name
  for _, h in ipairs(blocks:filter(heading)) do least = math.min(least, h.level) end
  for _, h in ipairs(blocks:filter(heading)) do
    h.level = h.level - least + 1
    local bare = stringify(h):match '^Appendix' or stringify(h) == 'References'
    if bare or not meta.author then h.classes:insert 'unnumbered' end
  end
end

local function note(element) -- a name is given once
  if known[element.identifier] then element.identifier = '' end
  known[element.identifier] = true
  if element.caption then
    local number = stringify(element.caption.long):match '^%a+ %d+%f[.]'
    if latex and number then element.caption.long[1].content:remove(1) end -- LaTeX counts
    numbers[element.identifier] = number
  end
  return element
end

local function refer(link) -- a link to no name is text, and the number in its text is its figure's
  local label, text = link.target:match '^#(.*)', stringify(link):gsub('\u{a0}', ' ')
  if link.target == '' or label and not known[label] then
    local said = label and text ~= '' and not typst and not latex
    if said then warn(('a link leads nowhere: %q, #%s'):format(text, label)) end
    return link.content
  elseif label and numbers[label] and text:match '^%a+ %d+$' then
    if text ~= numbers[label] then
      warn(('the text says %s, #%s is %s'):format(text, label, numbers[label]))
    end
    return latex and pandoc.RawInline('latex', (text:gsub(' %d+', '~\\ref{' .. label .. '}'))) or nil
  end
end

return {
  {Meta = function(given) meta = given end},
  {RawBlock = raw, RawInline = raw, Math = formula, Image = picture, Table = columns, Div = cell,
    Inlines = line},
  {Pandoc = function(doc) sections(doc.blocks) doc.meta = meta return doc end},
  {Header = note, Figure = note, Table = note, Div = note, Span = note},
  {Link = refer},
}
