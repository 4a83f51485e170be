"""Reports: figures by altair, and one self-contained HTML file that needs no network."""
