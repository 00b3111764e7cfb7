"""Order, depth-first ranges, residency and addresses in a software-managed memory."""
