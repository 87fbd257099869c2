"""What stands on both packages: evaluation, comparison, fitting to a budget, the demo."""
