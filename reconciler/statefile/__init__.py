"""How the text of a desired state is read: layers of files, tables, words, ports, and the line of every key."""
