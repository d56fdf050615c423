"""Who may do what, and how much of it: tokens, JWT, certificates, and limits per principal."""
