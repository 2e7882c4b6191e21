"""Turns the JSON lines of a benchmark into a table: one row a part, ours beside the peer's. Where a part was measured
several times: the median rate, the largest peak. `CPUs`: processors that each had on average, where it was measured."""
import json, statistics, sys

rows = {}
for line in sys.stdin:
    line = line.strip()
    if line.startswith("{"):
        row = json.loads(line)
        if "per_second" in row:
            rows.setdefault(row["part"], {}).setdefault("peer" if "peer" in row else "ours", []).append(row)
print(f"{'part':<10} {'peer/s':>9} {'dcsft/s':>9} {'ratio':>6} {'peer MiB':>9} {'dcsft MiB':>9} {'CPUs':>9}")
for part, pair in rows.items():
    def middle(name):
        return [statistics.median(row.get(name, 0) for row in pair[side]) for side in ("peer", "ours")]

    peer, ours = middle("per_second")
    peaks = [max(row["peak_mib"] for row in pair[side]) for side in ("peer", "ours")]
    digits = 0 if peer >= 100 else 2
    processors = "/".join(f"{number:.1f}" for number in middle("processors") if number)
    print(f"{part:<10} {peer:>9.{digits}f} {ours:>9.{digits}f} {ours / peer:>5.2f}x "
          f"{peaks[0]:>9.0f} {peaks[1]:>9.0f} {processors:>9}")
