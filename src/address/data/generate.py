#!/usr/bin/env python3
"""Writes national.txt, regions.txt, zones.txt and vectors.txt from the PyPI package `phonenumbers`.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install phonenumbers==9.0.43 regex==2026.11.15
    /tmp/v/bin/python src/address/data/generate.py

The run takes some minutes and is deterministic. See README.md for what the files mean.
"""

import os
import random
import re._parser as sre
from functools import lru_cache

import phonenumbers as pn
import regex
from phonenumbers.phonemetadata import PhoneMetadata
from phonenumbers.tzdata import TIMEZONE_DATA
from phonenumbers import timezone

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = """\
# Derived from libphonenumber {version} through the PyPI package `phonenumbers`.
# Copyright (C) The Libphonenumber Authors, Apache License 2.0. Made by generate.py: do not edit.
"""
# How deep below a calling code a prefix is split, in digits.
DEPTH_MAX = 7
REGION_DEPTH_MAX = 5
RANDOM_TAILS = 24
CODES = sorted(pn.COUNTRY_CODE_TO_REGION_CODE)


def regions_of(code):
    return pn.COUNTRY_CODE_TO_REGION_CODE[code]


def metadata_of(code):
    regions = regions_of(code)
    if regions == ("001",):
        return PhoneMetadata.metadata_for_nongeo_region(code)
    return PhoneMetadata.metadata_for_region(regions[0])


def all_metadata_of(code):
    if regions_of(code) == ("001",):
        return [metadata_of(code)]
    return [PhoneMetadata.metadata_for_region(region) for region in regions_of(code)]


@lru_cache(maxsize=None)
def lengths_of(code):
    lengths = {n for meta in all_metadata_of(code) for n in meta.general_desc.possible_length}
    return sorted(length for length in lengths if length > 0)


KINDS = "fixed_line mobile toll_free premium_rate shared_cost personal_number voip pager uan voicemail".split()


@lru_cache(maxsize=None)
def patterns_of(region):
    """Each kind's pattern of national numbers, where there is one."""
    meta = PhoneMetadata.metadata_for_region(region)
    found = {kind: getattr(meta, kind) for kind in KINDS}
    return {
        kind: regex.compile(desc.national_number_pattern)
        for kind, desc in found.items()
        if desc is not None and desc.national_number_pattern
    }


def can_begin(pattern, prefix):
    """Whether some number that matches `pattern` begins with `prefix`."""
    return pattern.fullmatch(prefix, partial=True) is not None


def number(code, national):
    zeros = len(national) - len(national.lstrip("0"))
    out = pn.PhoneNumber(country_code=code, national_number=int(national))
    if zeros:
        out.italian_leading_zero = True
        out.number_of_leading_zeros = zeros
    return out


def samples(code, prefix):
    """National numbers of every possible length that start with `prefix`, the same in every run."""
    rng = random.Random(f"{code}-{prefix}")
    for length in lengths_of(code):
        free = length - len(prefix)
        if free < 0:
            continue
        if free == 0:
            yield prefix
            continue
        tails = {d * free for d in "0123456789"}
        tails |= {"".join(rng.choice("0123456789") for _ in range(free)) for _ in range(RANDOM_TAILS)}
        tails |= {(d + "123456789012345")[:free] for d in "0123456789"}
        for tail in sorted(tails):
            yield prefix + tail


# --- national.txt


def first_digits(parsed):
    """(the digits with which a match can begin, whether it can be empty)."""
    first, empty = set(), True
    for op, arg in parsed:
        name = str(op)
        if name == "LITERAL":
            one, nothing = {chr(arg)}, False
        elif name == "IN":
            one, nothing = set(), False
            for kind, value in arg:
                if str(kind) == "LITERAL":
                    one.add(chr(value))
                elif str(kind) == "RANGE":
                    one |= {chr(c) for c in range(value[0], value[1] + 1)}
                elif str(kind) == "CATEGORY" and "DIGIT" in str(value):
                    one |= set("0123456789")
                else:
                    raise ValueError(f"class {kind}")
        elif name == "BRANCH":
            one, nothing = set(), False
            for branch in arg[1]:
                branch_first, branch_empty = first_digits(branch)
                one |= branch_first
                nothing |= branch_empty
        elif name == "SUBPATTERN":
            one, nothing = first_digits(arg[3])
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            one, nothing = first_digits(arg[2])
            nothing |= arg[0] == 0
        elif name == "AT":
            one, nothing = set(), True
        else:
            raise ValueError(f"operator {name}")
        first |= one
        if not nothing:
            return first, False
    return first, empty


def national_file():
    lines = [
        HEADER.format(version=pn.__version__),
        "# calling code, main region (- where there is none), and where a trunk prefix may have to go:\n"
        "# first digits, its pattern, its replacement (- to drop it), the pattern of national numbers, their\n"
        "# lengths, the lengths possible only locally. Tab-separated.\n",
    ]
    for code in CODES:
        meta = metadata_of(code)
        region = regions_of(code)[0]
        row = [str(code), "-" if region == "001" else region]
        prefix = meta.national_prefix_for_parsing
        if prefix:
            first, _ = first_digits(sre.parse(prefix))
            replacement = meta.national_prefix_transform_rule or "-"
            replacement = replacement.replace("\\", "$")
            for group in "123456789":
                replacement = replacement.replace("$" + group, "${" + group + "}")
            general = meta.general_desc
            row += [
                "".join(sorted(first)),
                prefix,
                replacement,
                general.national_number_pattern,
                ",".join(str(n) for n in general.possible_length),
                ",".join(str(n) for n in general.possible_length_local_only) or "-",
            ]
        lines.append("\t".join(row) + "\n")
    return "".join(lines)


# --- regions.txt


def possible_regions(code, prefix):
    """Regions are asked in order, the main one first: where another has the same pattern (toll-free
    numbers under +1), the main one answers."""
    main = regions_of(code)[0]
    its_own = {p.pattern for p in patterns_of(main).values()}
    return {
        region
        for region in regions_of(code)
        for pattern in patterns_of(region).values()
        if (region == main or pattern.pattern not in its_own) and can_begin(pattern, prefix)
    }


def split_regions(code, prefix, inherited, out):
    possible = possible_regions(code, prefix)
    if len(possible) > 1 and len(prefix) == REGION_DEPTH_MAX:
        # Patterns overlap: the main region stays where it has any number, else the commonest gets it.
        seen = [pn.region_code_for_number(number(code, n)) for n in samples(code, prefix)]
        possible = {inherited if inherited in seen else max(sorted(possible), key=seen.count)}
    if len(possible) > 1:
        for digit in "0123456789":
            split_regions(code, prefix + digit, inherited, out)
    elif possible and possible != {inherited}:
        (region,) = possible
        out.append((f"{code}{prefix}", region))


def merged(entries):
    """Ten siblings that agree become their parent."""
    table = dict(entries)
    for length in range(max((len(p) for p in table), default=0), 1, -1):
        parents = {p[:-1] for p in table if len(p) == length}
        for parent in parents:
            values = {table.get(parent + d) for d in "0123456789"}
            if len(values) == 1 and parent not in table and None not in values:
                for d in "0123456789":
                    del table[parent + d]
                (table[parent],) = values
    return sorted(table.items())


@lru_cache(maxsize=None)
def exceptions_of(code):
    """Prefix → region where that is not the main one."""
    entries = []
    if len(regions_of(code)) > 1:
        split_regions(code, "", regions_of(code)[0], entries)
    return dict(merged(entries))


def region_of_prefix(code, prefix):
    exceptions = exceptions_of(code)
    for length in range(len(prefix), 0, -1):
        if prefix[:length] in exceptions:
            return exceptions[prefix[:length]]
    return regions_of(code)[0]


def regions_file():
    lines = [
        HEADER.format(version=pn.__version__),
        "# Prefixes whose region is not the main one of their calling code; the longest one counts.\n",
    ]
    for code in CODES:
        lines += [f"{prefix} {region}\n" for prefix, region in sorted(exceptions_of(code).items())]
    return "".join(lines)


# --- zones.txt


def longest(prefix):
    for length in range(len(prefix), 0, -1):
        if prefix[:length] in TIMEZONE_DATA:
            return TIMEZONE_DATA[prefix[:length]]
    return None


@lru_cache(maxsize=None)
def whole_country(code):
    """All zones of a calling code: what a number tied to no place gets."""
    zones = set(TIMEZONE_DATA.get(str(code), ()))
    if not zones:
        for prefix, names in TIMEZONE_DATA.items():
            if prefix.startswith(str(code)):
                zones |= set(names)
    return tuple(sorted(zones))


@lru_cache(maxsize=None)
def whole_region(code, region):
    """All zones of a region: those of its prefixes, or of its calling code where that says no more."""
    zones = {
        name
        for prefix, names in TIMEZONE_DATA.items()
        if prefix.startswith(str(code)) and prefix != str(code) and region_of_prefix(code, prefix) == region
        for name in names
    }
    return tuple(sorted(zones)) or whole_country(code)


def anywhere(code, prefix):
    """The zones of numbers tied to no place. libphonenumber says the whole calling code; where the
    prefix is known to be another region's (the Bahamas under +1), only that region's are meant."""
    region = region_of_prefix(code, prefix)
    return whole_country(code) if region == regions_of(code)[0] else whole_region(code, region)


def place(code, national):
    """Whether the number is tied to a place; None for a number that does not exist."""
    kind = pn.number_type(number(code, national))
    if kind == pn.PhoneNumberType.UNKNOWN:
        return None
    return pn.is_number_type_geographical(kind, code)


def possible_places(code, prefix):
    """Which answers `place` can give for the numbers under `prefix`; at times one too many."""
    answers = set()
    for region in regions_of(code):
        patterns = patterns_of(region)
        fixed = patterns.get("fixed_line")
        for kind, pattern in patterns.items():
            # Where mobiles look like fixed lines (+1) they count as both.
            same = fixed is not None and pattern.pattern == fixed.pattern
            kind_of_it = pn.PhoneNumberType.FIXED_LINE if same else getattr(pn.PhoneNumberType, kind.upper())
            if can_begin(pattern, prefix):
                answers.add(pn.is_number_type_geographical(kind_of_it, code))
    return answers


def split_zones(code, prefix, out):
    full = f"{code}{prefix}"
    places = possible_places(code, prefix)
    if len(places) > 1 and len(prefix) == DEPTH_MAX:
        # In doubt any zone of the country.
        places = {all(p is not False for p in (place(code, n) for n in samples(code, prefix)))}
    regions_below = any(p.startswith(full) and p != full for p in exceptions_of(code))
    if len(places) > 1 or (places == {False} and regions_below):
        for digit in "0123456789":
            split_zones(code, prefix + digit, out)
    elif places == {False}:
        out[full] = anywhere(code, full)
    elif places == {True}:
        out.setdefault(full, longest(full) or whole_country(code))
        out.update({p: z for p, z in TIMEZONE_DATA.items() if p.startswith(full)})


def pruned(table):
    out = {}
    for prefix in sorted(table, key=lambda p: (len(p), p)):
        inherited = next((out[prefix[:n]] for n in range(len(prefix) - 1, 0, -1) if prefix[:n] in out), None)
        if table[prefix] != inherited:
            out[prefix] = table[prefix]
    return out


def zones_file():
    table = {}
    for code in CODES:
        country = whole_country(code)
        if not country:
            continue
        own = {str(code): country}
        if {z for p, z in TIMEZONE_DATA.items() if p.startswith(str(code))} != {country}:
            split_zones(code, "", own)
            own[str(code)] = country
            own = dict(merged(own.items()))
        table.update(pruned(own))
    regions = {
        region: whole_region(code, region)
        for code in CODES
        for region in regions_of(code)
        if region != "001" and whole_country(code)
    }
    names = sorted({name for zones in table.values() for name in zones})
    sets = sorted(set(table.values()) | set(regions.values()))
    lines = [
        HEADER.format(version=pn.__version__),
        "# First the zones, then sets of zones by their numbers (from 0), then prefix and set (the\n"
        "# longest prefix counts), then region and set.\n",
        "[zones]\n",
        *(f"{name}\n" for name in names),
        "[sets]\n",
        *(" ".join(str(names.index(name)) for name in zones) + "\n" for zones in sets),
        "[prefixes]\n",
        *(f"{prefix} {sets.index(zones)}\n" for prefix, zones in sorted(table.items())),
        "[regions]\n",
        *(f"{region} {sets.index(zones)}\n" for region, zones in sorted(regions.items())),
    ]
    return "".join(lines)


# --- vectors.txt


def vectors_file():
    """What libphonenumber says of numbers like its examples: the tests compare with it."""
    rng = random.Random("vectors")
    inputs = set()
    for region in sorted(pn.SUPPORTED_REGIONS):
        prefix = PhoneMetadata.metadata_for_region(region).national_prefix
        for kind in range(0, 11):
            example = pn.example_number_for_type(region, kind)
            if not example:
                continue
            national = pn.national_significant_number(example)
            digits = f"+{example.country_code}{national}"
            inputs.add(digits)
            inputs.add(digits[:-2] + f"{rng.randrange(100):02}")
            if kind in (0, 1) and prefix:
                inputs.add(f"+{example.country_code}{prefix}{national}")
    for code in CODES:
        if regions_of(code) == ("001",):
            example = pn.example_number_for_non_geo_entity(code)
            inputs.add(f"+{code}{pn.national_significant_number(example)}")
    lines = [
        HEADER.format(version=pn.__version__),
        "# As written, canonical form, region (- where unknown), zones (how many) for numbers libphonenumber holds valid.\n",
    ]
    for written in sorted(inputs):
        parsed = pn.parse(written)
        canonical = pn.format_number(parsed, pn.PhoneNumberFormat.E164)
        if not pn.is_valid_number(parsed) or len(canonical) <= 7:
            continue
        region = pn.region_code_for_number(parsed)
        zones = timezone.time_zones_for_number(parsed)
        if zones == ("Etc/Unknown",) or not place(parsed.country_code, pn.national_significant_number(parsed)):
            zones = anywhere(parsed.country_code, canonical[1:])
        lines.append(f"{written} {canonical} {'-' if region == '001' else region} {len(zones)}\n")
    return "".join(lines)


def write(name, text):
    with open(os.path.join(HERE, name), "w", encoding="ascii") as file:
        file.write(text)
    print(name, len(text))


if __name__ == "__main__":
    write("national.txt", national_file())
    write("regions.txt", regions_file())
    write("zones.txt", zones_file())
    write("vectors.txt", vectors_file())
