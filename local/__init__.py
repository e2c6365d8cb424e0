"""The `tunesmith` command on the machine it runs on: the whole service in one process tree, its servers, the demo.

It starts programs and talks to them over HTTP as any client does; it imports neither service nor worker.
"""
