"""Results as plain data, and their JSON form."""
