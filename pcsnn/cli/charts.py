"""Charts as plotly.js takes them: traces and axes; the page's program adds colours of text and grid by its theme."""

import html

BLUE, RED, ORANGE, GREEN, GREY, VIOLET = "#3d7bd9", "#e0504e", "#ee8a1d", "#3fa35a", "#8a8f98", "#9467bd"
EXECUTIONS = {
    "serial": (RED, "solid"),
    "serial integers": (RED, "dot"),
    "packed": (ORANGE, "solid"),
    "packed integers": (ORANGE, "dot"),
    "collapsed": (BLUE, "solid"),
    "float": (GREY, "dash"),
}
FORMS = {"float": GREY, "serial": RED, "spiking": BLUE}
_LONGEST = 28  # letters of a name below an axis


def name(text, longest=_LONGEST):
    """A layer's name as it is, no markup, its end where it is long."""
    return html.escape(text if len(text) <= longest else f"…{text[1 - longest :]}", quote=False)


def bars(title, unit, names, series):
    """Values of layers, a bar for each of `series` {label: (values, colour)} side by side."""
    traces = [
        {"type": "bar", "name": label, "x": list(range(len(names))), "y": values, "marker": {"color": colour}}
        | _told(names, label, f" {unit}")
        for label, (values, colour) in series.items()
    ]
    return _figure(traces, title, unit, _layers(names))


def by_layer(title, unit, names, series):
    """Values layer after layer, a line for each of `series` {label: (values, colour)}."""
    traces = [
        _line(label, list(range(len(names))), values, colour) | _told(names, label)
        for label, (values, colour) in series.items()
    ]
    return _figure(traces, title, unit, _layers(names))


def against(title, unit, label, series):
    """Lines of `series` {label: (at, values, colour, dash)} against T or the like, on a logarithmic axis."""
    traces = [
        _line(word, at, values, colour, dash) | {"hovertemplate": f"{word}<br>%{{x}}: %{{y:.4g}} {unit}<extra></extra>"}
        for word, (at, values, colour, dash) in series.items()
    ]
    ticks = sorted({place for at, *_ in series.values() for place in at})
    axis = {"type": "log", "title": label, "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
    return _figure(traces, title, unit, axis)


def histogram(title, often):
    """How often each spike count occurs, as a share."""
    total = max(sum(often), 1)
    trace = {
        "type": "bar",
        "x": list(range(len(often))),
        "y": [100 * many / total for many in often],
        "customdata": often,
        "marker": {"color": BLUE},
        "hovertemplate": "count %{x}<br>%{y:.2f} % of neurons (%{customdata:,})<extra></extra>",
        "name": "",
    }
    return _figure([trace], title, "% of neurons", {"title": "spike count", "tickformat": "d"})


def raster(title, trains, neurons, timesteps, spike_levels):
    """Spikes, neurons against time-steps: a spike of value s is s / D of a line high, negative ones are red.

    `trains`: a list of T values for each neuron; `neurons`: their indices in the layer.
    """
    layout = _figure([], title, "neuron", {"title": "time-step", "range": [0.5, timesteps + 0.5], "tickformat": "d"})
    layout["layout"]["yaxis"] |= {
        "range": [len(trains) - 0.5, -0.5],
        "showticklabels": False,
        "rangemode": "normal",
        "zeroline": False,
    }
    return layout | {"raster": {"trains": trains, "neurons": neurons, "levels": spike_levels, "colours": [BLUE, RED]}}


def _told(names, label, unit=""):
    """What a value of a layer says when it is pointed at."""
    return {
        "customdata": [name(text, 80) for text in names],
        "hovertemplate": f"%{{customdata}}<br>{label}: %{{y:.4g}}{unit}<extra></extra>",
    }


def _line(label, at, values, colour, dash="solid"):
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": at,
        "y": values,
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "size": 6},
    }


def _layers(names):
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [name(text) for text in names],
        "tickangle": -40 if len(names) > 3 else 0,
    }


def _figure(traces, title, unit, axis):
    return {
        "title": title,
        "data": traces,
        "layout": {
            "xaxis": axis,
            "yaxis": {"title": unit, "rangemode": "tozero"},
            "showlegend": len(traces) > 1 and any(trace["name"] for trace in traces),
            "barmode": "group",
        },
    }
