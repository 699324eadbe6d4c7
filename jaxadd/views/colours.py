"""The colours of pictures, for figures and for the page alike: another one is chosen here, and nowhere else.

A scale of colours is a few of them, evenly spaced, with the colours between them in proportion.
"""

SEQUENTIAL = (
    *("#fcfdbf", "#feca8d", "#fd9668", "#f1605d", "#cd4071"),
    *("#9e2f7f", "#721f81", "#440f76", "#180f3d", "#000004"),
)
"""heat maps from the least value to the largest: magma, light to dark"""
SEQUENTIAL_DARK = SEQUENTIAL[::-1]
"""the same on a dark page"""
DIVERGING = ("#16324f", "#3b6fb6", "#ffffff", "#d1495b", "#6d1023")
"""heat maps of signed values: blue below 0, white at 0, red above"""
DIVERGING_DARK = ("#9dbce0", "#6f9fe0", "#34507a", "#22272e", "#803543", "#ef7b8b", "#f6bcc4")
"""the same on a dark page"""
IMAGES = ("#ffffff", "#000000")
"""images, from paper to ink"""
ABSENT, ABSENT_DARK = "#eaeaea", "#3a3f46"
"""cells of a heat map that are NaN, on a light and on a dark page"""
KINDS = ("#f3f0ea", "#c9d7ea", "#d1495b", "#16324f", "#d99a2b", "#4f9a72", "#8d6a9f", "#b5835a")
"""cells that are of a kind, by its number"""
KINDS_DARK = ("#23272d", "#34507a", "#ef7b8b", "#dfe3e8", "#d99a2b", "#4f9a72", "#8d6a9f", "#b5835a")
"""the same on a dark page"""
TRAIN, TEST = "#3b6fb6", "#d1495b"
TRAIN_DARK, TEST_DARK = "#6f9fe0", "#ef7b8b"
"""bars and marks on a dark page"""
LINES = (TRAIN, TEST, "#6b6b6b", "#d99a2b", "#4f9a72", "#8d6a9f", "#5c7793", "#7aa9d8", "#b5835a")
"""curves: train, test, then the others, legible on light and dark pages; more than these repeat"""
STACKED = (TRAIN, TEST, "#b9b9b9", "#d99a2b", "#4f9a72", "#8d6a9f")
"""areas on top of each other"""
ORDERED = ("#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878", "#440154")
"""curves that have an order, from the first to the last: viridis"""
OUTCOME_COLOURS = (LINES[4], LINES[3], TEST, "#9a9a9a")
"""outcomes of a run: comprehension, grokking, memorisation, confusion"""
