"""What the notebooks show: results, claims and statistics, figures, tables, the exported
article."""
