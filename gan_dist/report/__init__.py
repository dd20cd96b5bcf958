"""Show a run from its files alone: as one static page, as Markdown, and live in a terminal."""
