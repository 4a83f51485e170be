"""How values and progress show themselves in a notebook; needs nothing of the other rooms.

A class of another room has a `_repr_html_` that is made of these pieces: inline, without scripts or
style sheets, in the reader's own ink, so that it reads on light and on dark.
"""
