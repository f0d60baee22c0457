-- What HTML has no element for: the title block, and citations in pandoc's own notation.
local CALLS = {Strong = true, Emph = true, Strikeout = true, Superscript = true, Subscript = true, Link = true, Image = true}

-- Typst would read the dot in "#strong[bold].step" as access to a field, and "1." or "-" first in a cell as a list's
function Inlines(inlines)
  for i = #inlines, 2, -1 do
    local before = inlines[i - 1]
    local is_call = CALLS[before.t] or before.t == "Code" and before.text:find("`")
    if FORMAT == "typst" and is_call and inlines[i].t == "Str" and inlines[i].text:match("^%.[%a_]") then
      inlines:insert(i, pandoc.RawInline("typst", ";"))
    end
  end
  local first = inlines[1]
  if FORMAT == "typst" and first and first.t == "Str" and (first.text:match("^[-+=/]+$") or first.text:match("^%d+%.$")) then
    inlines:insert(1, pandoc.RawInline("typst", "#[]"))
  end
  return inlines
end

function Str(str)
  return pandoc.Str((str.text:gsub("(%w)'(%w)", "%1’%2"):gsub("^([^']+s)'$", "%1’")))
end

function Span(span)
  if span.classes:includes("citation") then
    return pandoc.read(pandoc.utils.stringify(span), "markdown").blocks[1].content
  end
end

function Pandoc(doc)
  local body = pandoc.Blocks {}
  for _, block in ipairs(doc.blocks) do
    if block.identifier == "meta-title" then
      doc.meta.title = block.content[1].content
    elseif block.identifier == "meta-authors" then
      doc.meta.author = block.content:map(function(name) return name.content end)
    elseif block.identifier == "meta-abstract" then
      doc.meta.abstract = block.content
    else
      body:insert(block)
    end
  end
  return pandoc.Pandoc(body, doc.meta)
end
