"""Analysis of networks that add numbers of n digits: ablation effects, neuron groups, claims, report."""
