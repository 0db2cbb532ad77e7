"""What is made of states, scores and answers: statistics, the judge, directions, probes, sweeps, patching."""
