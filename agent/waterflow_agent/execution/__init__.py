"""How attempts are carried out: processes, output, masking, and working directories."""
