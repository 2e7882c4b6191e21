"""Softmax regression by stochastic gradient descent, with the standard library alone."""

import math
import random


class Softmax:
    def __init__(self, classes, width):
        self.classes = classes
        self.weights = [[0.0] * width for _ in classes]

    def probabilities(self, row, temperature=1.0):
        scores = [sum(w * x for w, x in zip(weights, row)) / temperature for weights in self.weights]
        most = max(scores)
        powers = [math.exp(score - most) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def epoch(self, rows, rate, order):
        """One pass over (features, class) pairs in a drawn order; the mean loss."""
        rows = list(rows)
        order.shuffle(rows)
        loss = 0.0
        for row, answer in rows:
            shares = self.probabilities(row)
            loss -= math.log(max(shares[answer], 1e-12))
            for index, weights in enumerate(self.weights):
                step = rate * (shares[index] - (index == answer))
                for at, value in enumerate(row):
                    weights[at] -= step * value
        return loss / len(rows)


def drawn(seed, *what):
    """Random numbers of their own for whatever they are drawn for."""
    return random.Random(":".join(map(str, (seed, *what))))
