"""As much of CDDL (RFC 8610) as docs/protocol/gso1.cddl uses: shapes are taken from that file and stand nowhere else.

A rule is parsed into nested tuples; `Shapes.check(rule, item)` matches decoded CBOR. Member keys written with a colon
are cuts: a member whose key is named must have the type that stands there, it cannot pass as an extension.
"""

import re

from . import Refused, cbor

TOKEN = re.compile(
    r"""\s+|;[^\n]*|(?P<token>"[^"]*"|=>|//|\.\.|\.(?:size|cbor|regexp)|-?\d+|[A-Za-z][\w-]*|[][{}()<>=/:,?*])"""
)
PRELUDE = {
    "any": lambda item: True,
    "bstr": lambda item: isinstance(item, bytes),
    "tstr": lambda item: isinstance(item, str),
    "bool": lambda item: isinstance(item, bool),
    "uint": lambda item: type(item) is int and item >= 0,
    "nint": lambda item: type(item) is int and item < 0,
    "null": lambda item: item is None,
}


class Shapes:
    def __init__(self, text):
        self.tokens, at = [], 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if not found:
                raise ValueError(f"CDDL: {text[at:at + 40]!r}")
            if found["token"]:
                self.tokens.append(found["token"])
            at = found.end()
        self.at, self.rules, self.seen, self.shallow = 0, {}, set(), False
        while self.at < len(self.tokens):
            self._rule()

    # ---- Parsing ----

    def _next(self, offset=0):
        return self.tokens[self.at + offset] if self.at + offset < len(self.tokens) else ""

    def _take(self, wanted=None):
        token = self._next()
        if wanted is not None and token != wanted:
            raise ValueError(f"CDDL: {wanted!r} wanted, {self.tokens[self.at - 5:self.at + 5]}")
        self.at += 1
        return token

    def _rule(self):
        name, parameter = self._take(), None
        if self._next() == "<":
            self._take("<")
            parameter = self._take()
            self._take(">")
        self._take("=")
        self.rules[name] = (parameter, self._group("(", ")") if self._next() == "(" else self._type())

    def _group(self, opening, closing):
        """Choices of sequences of entries: ("group", [[(low, high, key, cut, type), ..], ..])."""
        self._take(opening)
        choices = [[]]
        while self._next() != closing:
            if self._next() == "//":
                self._take()
                choices.append([])
            elif self._next() == ",":
                self._take()
            else:
                choices[-1].append(self._entry())
        self._take(closing)
        return ("group", choices)

    def _entry(self):
        low, high = 1, 1
        if self._next() == "?":
            self._take()
            low = 0
        elif self._next() == "*" or (self._next().isdigit() and self._next(1) == "*"):
            low = 0 if self._next() == "*" else int(self._take())
            self._take("*")
            high = int(self._take()) if self._next().isdigit() else 1 << 32
        if self._next() == "(":
            return (low, high, None, False, self._group("(", ")"))
        if self._next(1) == ":":
            key = self._take()
            self._take(":")
            return (low, high, int(key) if re.fullmatch(r"-?\d+", key) else None, True, self._type())
        kind = self._type()
        if self._next() == "=>":
            self._take()
            return (low, high, kind, False, self._type())
        return (low, high, None, False, kind)

    def _type(self):
        choices = [self._controlled()]
        while self._next() == "/":
            self._take()
            choices.append(self._controlled())
        return choices[0] if len(choices) == 1 else ("choice", choices)

    def _controlled(self):
        kind = self._plain()
        if self._next() == "..":
            self._take()
            return ("range", kind[1], self._plain()[1])
        while self._next().startswith(".") and self._next() != "..":
            kind = ("control", self._take(), kind, self._type_of_control())
        return kind

    def _type_of_control(self):
        if self._next() == "(":
            self._take("(")
            kind = self._type()
            self._take(")")
            return kind
        return self._plain()

    def _plain(self):
        token = self._next()
        if token == "{":
            return ("map", self._group("{", "}"))
        if token == "[":
            return ("array", self._group("[", "]"))
        self._take()
        if token.startswith('"'):
            return ("literal", token[1:-1])
        if re.fullmatch(r"-?\d+", token):
            return ("literal", int(token))
        argument = None
        # A rule that follows may be generic: its name comes before `<`, too, but then `=` after `>`.
        if self._next() == "<" and self._next(3) != "=":
            self._take("<")
            argument = self._type()
            self._take(">")
        return ("name", token, argument)

    # ---- Matching ----

    def check(self, rule, item):
        """Refused("E_FORMAT") when the decoded item is not of the rule's shape."""
        if not self._is(("name", rule, None), item, {}):
            raise Refused("E_FORMAT", f"not a {rule}")
        return item

    def read(self, rule, data):
        return self.check(rule, cbor.decode(data))

    def outside(self, rule, item):
        """As `check`, but byte strings that hold documents are not opened: a reader opens each when its turn comes."""
        self.shallow = True
        try:
            return self.check(rule, item)
        finally:
            self.shallow = False

    def _is(self, kind, item, bound):
        return getattr(self, "_is_" + kind[0])(kind, item, bound)

    def _is_name(self, kind, item, bound):
        name, argument = kind[1], kind[2]
        if name in bound:
            return self._is(bound[name][0], item, bound[name][1])
        if name in PRELUDE:
            return PRELUDE[name](item)
        parameter, body = self.rules[name]
        matches = self._is(body, item, {parameter: (argument, bound)} if parameter else {})
        if matches:
            self.seen.add(name)
        return matches

    def _is_literal(self, kind, item, _bound):
        return type(item) is type(kind[1]) and item == kind[1]

    def _is_range(self, kind, item, _bound):
        return isinstance(item, int) and not isinstance(item, bool) and kind[1] <= item <= kind[2]

    def _is_choice(self, kind, item, bound):
        return any(self._is(choice, item, bound) for choice in kind[1])

    def _is_control(self, kind, item, bound):
        _, control, inner, argument = kind
        if not self._is(inner, item, bound):
            return False
        if control == ".size":
            size = len(item.encode() if isinstance(item, str) else item)
            return self._is(argument, size, bound)
        if control == ".regexp":
            return re.fullmatch(argument[1], item) is not None
        if self.shallow:
            return True
        try:
            return self._is(argument, cbor.decode(item), bound)
        except Refused:
            return False

    def _is_array(self, kind, item, bound):
        if not isinstance(item, list):
            return False
        return any(self._sequence(entries, item, 0, bound) for entries in kind[1][1])

    def _sequence(self, entries, items, at, bound):
        """No shape of ours needs to give back what a repetition took."""
        for low, high, _key, _cut, kind in entries:
            count = 0
            while count < high and at < len(items) and self._is(kind, items[at], bound):
                count, at = count + 1, at + 1
            if count < low:
                return False
        return at == len(items)

    def _is_map(self, kind, item, bound):
        return isinstance(item, dict) and any(set() == left for left in self._left(kind[1], item, set(item), bound))

    def _left(self, group, item, keys, bound):
        """For each way in which the group matches: the keys that it leaves."""
        for entries in group[1]:
            left, fits = set(keys), True
            for low, high, key, cut, kind in entries:
                inner = self._as_group(kind) if key is None else None
                if inner:
                    ways = list(self._left(inner, item, left, bound))
                    self.seen |= {kind[1]} if ways and kind[0] == "name" else set()
                    fits = fits and bool(ways)
                    left = min(ways, key=len) if ways else left
                    continue
                if cut:
                    fits = fits and (self._is(kind, item[key], bound) if key in item else low == 0)
                    left.discard(key)
                else:
                    left -= {k for k in left if self._is(key, k, bound) and self._is(kind, item[k], bound)}
                if not fits:
                    break
            if fits:
                yield left

    def _as_group(self, kind):
        if kind[0] == "group":
            return kind
        return self.rules[kind[1]][1] if kind[0] == "name" else None
