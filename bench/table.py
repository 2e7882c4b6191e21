"""Turns the JSON lines of micro.sh into a table: one row a part, ours beside the peer's."""
import json, sys

rows = {}
for line in sys.stdin:
    line = line.strip()
    if line.startswith("{"):
        row = json.loads(line)
        rows.setdefault(row["part"], {})["peer" if "peer" in row else "ours"] = row
print(f"{'part':<10} {'peer/s':>9} {'dcsft/s':>9} {'ratio':>6} {'peer MiB':>9} {'dcsft MiB':>9}")
for part, pair in rows.items():
    peer, ours = pair["peer"], pair["ours"]
    print(f"{part:<10} {peer['per_second']:>9.0f} {ours['per_second']:>9.0f} "
          f"{ours['per_second'] / peer['per_second']:>5.2f}x {peer['peak_mib']:>9.0f} {ours['peak_mib']:>9.0f}")
