"""Self-contained HTML pages with plots and audio players; one file a page."""
