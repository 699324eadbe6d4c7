"""Analysis of networks that learn an operation mod P: progress measures, clocks and pizzas, claims, report."""
