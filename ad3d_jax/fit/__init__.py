"""What optimises: one step, the phases of a system, populations."""
