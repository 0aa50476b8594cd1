"""temporary"""


def lines(graph):
    return []
