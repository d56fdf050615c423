"""What an operator of a server needs to see and to change while it runs."""
