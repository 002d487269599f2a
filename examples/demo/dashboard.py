"""The memory pool as text: bars for bytes, numbers for counters, read from the server's /metrics."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "weldpool_pool_"
BAR_WIDTH = 40
# Gauges that say what is allowed or how it is counted, not what there is.
WITHOUT_BAR = {"limit_bytes", "sample_interval_bytes"}


def fetch(address):
    """Returns {pool: {name: value}} of every `weldpool_pool_NAME{pool="..."}` without further labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    pools = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(PREFIX) and sample.labels.keys() == {"pool"}:
                pools.setdefault(sample.labels["pool"], {})[sample.name.removeprefix(PREFIX)] = sample.value
    return pools


def render(pools, earlier):
    """Returns the lines of the dashboard; counters also as the difference to `earlier`, an older answer of `fetch`."""
    out = []
    for pool, values in sorted(pools.items()):
        out.append(f"pool {pool}")
        gauges = {name: value for name, value in values.items() if name.endswith("_bytes")}
        # Of the limit, which may be all of the machine's memory, bars would be empty.
        longest = max((value for name, value in gauges.items() if name not in WITHOUT_BAR), default=0)
        for name, value in gauges.items():
            filled = round(BAR_WIDTH * value / longest) if longest else 0
            bar = "" if name in WITHOUT_BAR else "#" * filled + "." * (BAR_WIDTH - filled)
            bar = f"{bar:<{BAR_WIDTH}}"
            out.append(f"  {_title(name):<16} {bar} {_amount(name, value):>12}")
        for name, value in values.items():
            if name.endswith("_total"):
                since = value - earlier.get(pool, {}).get(name, 0)
                counter = name.removesuffix("_total")
                total, change = _amount(counter, value), _amount(counter, since)
                out.append(f"  {_title(counter):<16} {total:>14}   +{change} while timed")
    return out


def _title(name):
    return name.removesuffix("_bytes").replace("_", " ")


def _amount(name, value):
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if name.endswith("_seconds"):
        return f"{value * 1e3:,.2f} ms"
    return f"{value:,.0f}"
