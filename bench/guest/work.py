"""What row python runs: JSON, regular expressions, dictionaries, sorting, text, integers and floats. Prints sums that depend
on nothing but the code; the row compares them between machines."""
import hashlib
import json
import re


def numbers(count, seed=1):
    for _ in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield seed >> 33


def documents(count):
    source = numbers(count * 4)
    return [{'id': i, 'name': f'item-{next(source) % 997}', 'tags': [f't{next(source) % 31}' for _ in range(2)],
             'price': next(source) % 10000 / 100} for i in range(count)]


def json_round(count):
    text = json.dumps(documents(count), sort_keys=True)
    back = json.loads(text)
    assert len(back) == count and back[count // 2]['id'] == count // 2
    return text, back


def words(text):
    found = {}
    for word in re.findall(r'[a-z]+-\d+|t\d+', text):
        found[word] = found.get(word, 0) + 1
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def prices(items):
    total = {}
    for item in items:
        for tag in item['tags']:
            total[tag] = total.get(tag, 0.0) + item['price'] * 1.19
    return sorted((round(value, 6), tag) for tag, value in total.items())


def primes(limit):
    sieve = bytearray([1]) * (limit + 1)
    for n in range(2, int(limit ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n::n] = bytes(len(range(n * n, limit + 1, n)))
    return sum(n for n in range(2, limit + 1) if sieve[n])


class Tree:
    """Unbalanced binary search tree."""

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = 'left' if key < node.key else 'right'
            below = getattr(node, side)
            if below is None:
                setattr(node, side, Tree(key))
                return
            node = below

    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.key
        if self.right:
            yield from self.right


def tree(count):
    root = Tree(1 << 30)
    keys = list(numbers(count, 7))
    for key in keys:
        root.insert(key)
    assert list(root) == sorted(keys + [1 << 30])
    return sum(root)


def main():
    text, items = json_round(20000)
    substituted = re.sub(r'item-(\d)(\d*)', lambda m: m.group(2) + m.group(1), text)
    print(hashlib.sha256(substituted.encode()).hexdigest())
    print(words(text)[:5])
    print(prices(items)[:5])
    print(primes(800000), tree(15000), pow(3, 20011, 10 ** 60 + 7))


main()
