"""Access control: tokens, JWT, certificates, rights, and limits per principal."""
