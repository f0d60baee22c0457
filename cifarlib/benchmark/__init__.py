"""The training loop beside what else people write, on one machine: measured (measure.py), read and
summed up (record.py)."""
