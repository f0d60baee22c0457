"""What the notebooks show: results, claims, figures, tables, and the exported article."""
