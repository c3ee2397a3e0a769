"""A run as static pages for a browser: everything that models and cells wrote is shown in them, and none of it acts."""
