"""Whether the texts of a figure can be read: none leaves the figure, none runs into another."""


def texts(figure):
    """List what is written in a figure after it was laid out: (text, extent in pixels), tick labels in view only."""
    figure.draw_without_rendering()
    found = []
    for part in figure.findobj(lambda artist: hasattr(artist, "subfigs")):
        found += part.texts
        for legend in part.legends:
            found += legend.get_texts()
    for ax in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels")):
        found += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            if axis.get_visible() and ax.axison:
                low, high = sorted(limits)
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [label for tick in ticks for label in (tick.label1, tick.label2)]
        if ax.get_legend():
            found += ax.get_legend().get_texts()
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_visible() and text.get_text()]


def words(figure):
    """List what is written in a figure."""
    return [text for text, _ in texts(figure)]


def check_legible(figure):
    """Check that no text leaves the figure or runs into another."""
    written = texts(figure)
    for i, (text, box) in enumerate(written):
        assert box.x0 > -3, text
        assert box.y0 > -3, text
        assert box.x1 < figure.bbox.x1 + 3, text
        assert box.y1 < figure.bbox.y1 + 3, text
        for other, box_ in written[:i]:
            width = min(box.x1, box_.x1) - max(box.x0, box_.x0)
            height = min(box.y1, box_.y1) - max(box.y0, box_.y0)
            assert width < 2 or height < 2, f"{text!r} runs into {other!r}"
