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


def cell(number, digits=0):
    return "-" if number is None else f"{number:.{digits}f}"


print(f"{'part':<14} {'peer/s':>9} {'dcsft/s':>9} {'ratio':>6} {'peer MiB':>9} {'dcsft MiB':>9} {'CPUs':>9}")
for part, pair in rows.items():
    def of(name, choose):
        """By side; none where that side was not measured."""
        given = [[row[name] for row in pair.get(side, []) if name in row] for side in ("peer", "ours")]
        return [choose(numbers) if numbers else None for numbers in given]

    peer, ours = of("per_second", statistics.median)
    # What the card held, where the work was done on one.
    peaks = of("card_peak_mib" if any("card_peak_mib" in row for side in pair.values() for row in side) else "peak_mib", max)
    digits = 0 if max(peer or 0, ours or 0) >= 100 else 2
    ratio = "-" if None in (peer, ours) else f"{ours / peer:.2f}x"
    processors = "/".join(cell(number, 1) for number in of("processors", statistics.median))
    print(f"{part:<14} {cell(peer, digits):>9} {cell(ours, digits):>9} {ratio:>6} "
          f"{cell(peaks[0]):>9} {cell(peaks[1]):>9} {processors:>9}")

launched = {part: pair["ours"] for part, pair in rows.items() if any("launches_a_layer" in row for row in pair.get("ours", []))}
if launched:
    print(f"\n{'kernels':<24} {'of a decoder layer':>20}")
for part, given in launched.items():
    print(f"{part:<24} {statistics.median(row['launches_a_layer'] for row in given if 'launches_a_layer' in row):>20.1f}")

copied = {part: pair["ours"] for part, pair in rows.items() if any(row.get("up_calls") for row in pair.get("ours", []))}
if copied:
    print(f"\n{'copies per step or token':<24} {'up':>9} {'bytes':>12} {'down':>9} {'bytes':>12}")
for part, given in copied.items():
    numbers = [statistics.median(row[f"{way}_{what}"] for row in given) for way in ("up", "down") for what in ("calls", "bytes")]
    print(f"{part:<24} {numbers[0]:>9.2f} {numbers[1]:>12.0f} {numbers[2]:>9.2f} {numbers[3]:>12.0f}")
