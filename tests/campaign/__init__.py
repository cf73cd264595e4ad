"""A campaign of random faults on real sweeps: what they lose, double or change is counted, and must be nothing.

python -m tests.campaign --backend local --faults 100 --seed 1
"""
