"""What the product costs: measured beside the physical limit and beside what an administrator would use instead."""
