"""What hubdist tells people about its work."""
