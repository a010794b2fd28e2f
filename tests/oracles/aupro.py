"""AUPRO by the letter of its definition, slow and independent of the package."""

from collections import deque
from fractions import Fraction

import numpy as np


def regions(mask, diagonal=True):
    """Returns the regions of one mask as lists of (row, column), by flood fill."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if diagonal:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        queue = deque([left.pop()])
        region = []
        while queue:
            r, c = queue.popleft()
            region.append((r, c))
            for dr, dc in steps:
                if (r + dr, c + dc) in left:
                    left.remove((r + dr, c + dc))
                    queue.append((r + dr, c + dc))
        found.append(region)
    return found


def scores_of(maps, masks, diagonal=True):
    """Returns the normal scores and a list with the scores of each region."""
    per_region = []
    for image, mask in zip(maps, masks, strict=True):
        for region in regions(mask, diagonal):
            per_region.append(np.array([image[place] for place in region]))
    return np.asarray(maps)[~np.asarray(masks)], per_region


def exact(maps, masks, limit, diagonal=True):
    """Returns AUPRO up to `limit` over every distinct threshold, in exact fractions."""
    normal, per_region = scores_of(maps, masks, diagonal)
    limit = Fraction(limit).limit_denominator(10**6)
    points = [(Fraction(0), Fraction(0))]
    for threshold in sorted(set(np.ravel(maps).tolist()), reverse=True):
        rate = Fraction(int((normal >= threshold).sum()), normal.size)
        shares = [Fraction(int((r >= threshold).sum()), r.size) for r in per_region]
        points.append((rate, sum(shares) / len(shares)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return float(area / limit)


def sampled(maps, masks, limit, thresholds):
    """Returns AUPRO from thresholds at equally spaced ranks of the normal scores."""
    normal, per_region = scores_of(maps, masks)
    normal = np.sort(normal)
    rates, overlaps = [1.0], [1.0]
    for rank in np.linspace(0, normal.size - 1, thresholds).astype(int):
        rates.append(1.0 - (rank + 1) / normal.size)
        overlaps.append(np.mean([np.mean(r > normal[rank]) for r in per_region]))
    rates, overlaps = np.array(rates[::-1]), np.array(overlaps[::-1])
    grid = np.append(rates[rates < limit], limit)
    heights = np.append(overlaps[rates < limit], np.interp(limit, rates, overlaps))
    return float(np.trapezoid(heights, grid) / limit)
