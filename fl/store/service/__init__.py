"""The store as a process: entries, questions and a page to look at, over HTTP."""
