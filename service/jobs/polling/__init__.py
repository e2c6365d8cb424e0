"""What clients that come again and again are answered from: versions in memory, places in line, one watcher, streams.

Everything here saves queries; whatever decides about a job or changes it lives above.
"""
