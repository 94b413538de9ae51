#!/usr/bin/env python3
"""Writes examples/llm/unicode_tables.h: ranges of letters, numbers and white space.

    tools/make_unicode_tables.py > examples/llm/unicode_tables.h
"""
import unicodedata

SPACES = {9, 10, 11, 12, 13, 0x85}      # White_Space = these and the categories Zs, Zl, Zp


def ranges(member):
    out = []
    for c in range(0x110000):
        if not member(c):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, comment, member):
    lines, line = [], "   "
    for first, last in ranges(member):
        item = f" {{0x{first:X},0x{last:X}}},"
        if len(line) + len(item) > 100:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line.rstrip(","))
    print(f"static const unicode_range {name}[] = {{   /* {comment} */")
    print("\n".join(lines) + "\n};\n")


def category(c):
    return unicodedata.category(chr(c))


version = unicodedata.unidata_version
print(f"""/* unicode_tables.h: code points by general category, Unicode {version}.
 * Made by tools/make_unicode_tables.py; do not edit. Inclusive ranges, ascending.
 */
#ifndef LLM_UNICODE_TABLES_H
#define LLM_UNICODE_TABLES_H
#include <stdint.h>

typedef struct unicode_range {{ uint32_t first, last; }} unicode_range;
""")
table("unicode_letters", "L*", lambda c: category(c)[0] == "L")
table("unicode_numbers", "N*", lambda c: category(c)[0] == "N")
table("unicode_spaces", "White_Space", lambda c: c in SPACES or category(c)[0] == "Z")
print("#endif")
