"""The audit trail: who did what, when, in a chain that shows every later edit; the lowest app, it knows no other."""
