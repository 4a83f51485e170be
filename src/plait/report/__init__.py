"""What people look at: figures by altair, pages that need no network, tables of the terminal."""
