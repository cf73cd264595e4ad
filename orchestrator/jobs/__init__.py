"""Acting on jobs: submit, control, retry, and the faults that ended them."""
