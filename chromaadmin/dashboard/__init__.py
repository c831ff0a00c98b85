"""Dashboard: the fleet, the page of one instance, the search, and the pages of errors."""
