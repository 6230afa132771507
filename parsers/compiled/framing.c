/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the messages of a gob stream begin, and the fields of the usual ones: one pass each
 * over what parsers/framing.py describes.
 */
#include "kernels.h"

EXPORT i64 framing_walk(const u8 *buffer, i64 size, i64 limit, i64 *starts, i64 *state)
{
	i64 position = 0, count = 0;

	state[1] = 0;
	while (count < limit && position < size) {
		u8 first = buffer[position];
		i64 next;

		if (first == 0xFF) { /* one byte of length */
			if (position + 1 >= size)
				break;
			next = position + 2 + buffer[position + 1];
		} else if (first && first < 0x80) {
			next = position + 1 + first;
		} else if (first == 0xFE) { /* two */
			if (position + 2 >= size)
				break;
			next = position + 3 + big16(buffer + position + 1);
		} else {
			state[1] = 1;
			break;
		}
		if (next > size)
			break;
		starts[count++] = position;
		position = next;
	}
	state[0] = position;
	return count;
}

/* An unsigned integer as gob has it, at most two bytes behind a marker; -1 for all others. */
static inline i64 short_uint(const u8 **at, const u8 *end)
{
	const u8 *p = *at;

	if (p >= end)
		return -1;
	if (*p < 0x80) {
		*at = p + 1;
		return *p;
	}
	if (*p == 0xFF && end - p >= 2) {
		*at = p + 2;
		return p[1];
	}
	if (*p == 0xFE && end - p >= 3) {
		*at = p + 3;
		return big16(p + 1);
	}
	return -1;
}

EXPORT i64 framing_decode(const u8 *raw, i64 count, const i64 *bounds, const u8 *prefix, i64 width,
			  i64 *offset, i64 *length, i64 *cpu, u8 *usual)
{
	i64 done = 0;

	for (i64 i = 0; i < count; i++) {
		const u8 *at = raw + bounds[i], *end = raw + bounds[i + 1];
		i64 size, signed_cpu = 0, differ = 0;

		usual[i] = 0;
		at += *at < 0x80 ? 1 : 257 - *at; /* the message's own length */
		if (end - at < width)
			continue;
		for (i64 k = 0; k < width; k++)
			differ |= at[k] ^ prefix[k];
		if (differ)
			continue;
		at += width;
		size = short_uint(&at, end);
		if (size <= 0 || size > end - at)
			continue;
		offset[i] = at - raw;
		length[i] = size;
		at += size;
		/* The rest is [1 CPU] 2|3 Type 0: steps over fields that are 0 and not sent. */
		if (end - at == 3) {
			if (at[0] != 3)
				continue;
		} else {
			if (end - at < 5 || *at++ != 1)
				continue;
			signed_cpu = short_uint(&at, end);
			if (signed_cpu < 0 || signed_cpu & 1 || end - at != 3 || at[0] != 2)
				continue;
		}
		if (at[1] != 18 || at[2]) /* 9, as a signed integer */
			continue;
		cpu[i] = signed_cpu >> 1;
		usual[i] = 1;
		done++;
	}
	return done;
}
