"""One module for each command, imported only when it is called: ``run(session, options) -> exit code``."""
