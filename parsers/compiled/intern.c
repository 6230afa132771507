/* SPDX-License-Identifier: Apache-2.0
 *
 * The hash table of parsers/intern.py: the same hash, the same slots.
 */
#include "kernels.h"

#define BLOCK 32 /* keys whose slots are fetched while others are compared */

static inline u64 hash_of(const u64 *key, i64 width, const u64 *secret)
{
	u64 hashed = 0;

	for (i64 word = 0; word < width; word++) {
		u64 product = key[word] * secret[word];

		hashed += (product ^ product >> 32) * secret[word + 1];
	}
	hashed ^= hashed >> 29;
	return hashed * secret[0];
}

static inline int equal(const u64 *one, const u64 *other, i64 width)
{
	u64 differ = 0;

	for (i64 word = 0; word < width; word++)
		differ |= one[word] ^ other[word];
	return !differ;
}

static inline int is_zero(const u64 *key, i64 width)
{
	u64 any = 0;

	for (i64 word = 0; word < width; word++)
		any |= key[word];
	return !any;
}

/* Inlined for each width that tables have, so that the loops over words are unrolled. */
static inline __attribute__((always_inline)) i64
find(const u64 *keys, i64 count, i64 width, const u64 *secret, const u64 *rows, const u64 *hashes,
     const u32 *slots, i64 bits, u32 *found, i64 *absent)
{
	u64 hashed[BLOCK];
	u64 mask = ((u64)1 << bits) - 1;
	i64 missing = 0;

	for (i64 begin = 0; begin < count; begin += BLOCK) {
		i64 some = count - begin < BLOCK ? count - begin : BLOCK;

		for (i64 i = 0; i < some; i++) {
			hashed[i] = hash_of(keys + (begin + i) * width, width, secret);
			__builtin_prefetch(&slots[hashed[i] >> (64 - bits)]);
		}
		for (i64 i = 0; i < some; i++) {
			u32 row = slots[hashed[i] >> (64 - bits)];

			__builtin_prefetch(&hashes[row]);
			__builtin_prefetch(&rows[row * width]);
		}
		for (i64 i = 0; i < some; i++) {
			const u64 *key = keys + (begin + i) * width;
			u64 slot = hashed[i] >> (64 - bits);
			u32 row;

			/* Freed rows are zero as well, so the zero key is not searched for. */
			if (UNLIKELY(!hashed[i]) && is_zero(key, width)) {
				found[begin + i] = 0;
				continue;
			}
			while ((row = slots[slot]) &&
			       (hashes[row] != hashed[i] || !equal(rows + row * width, key, width)))
				slot = (slot + 1) & mask;
			found[begin + i] = row;
			if (UNLIKELY(!row))
				absent[missing++] = begin + i;
		}
	}
	return missing;
}

EXPORT i64 intern_find(const u64 *keys, i64 count, i64 width, const u64 *secret, const u64 *rows,
		       const u64 *hashes, const u32 *slots, i64 bits, u32 *found, i64 *absent)
{
	switch (width) {
	case 1:
		return find(keys, count, 1, secret, rows, hashes, slots, bits, found, absent);
	case 2:
		return find(keys, count, 2, secret, rows, hashes, slots, bits, found, absent);
	case 4:
		return find(keys, count, 4, secret, rows, hashes, slots, bits, found, absent);
	case 8:
		return find(keys, count, 8, secret, rows, hashes, slots, bits, found, absent);
	default:
		return find(keys, count, width, secret, rows, hashes, slots, bits, found, absent);
	}
}

EXPORT i64 intern_add(const u64 *keys, i64 width, const u64 *secret, const i64 *absent, i64 count,
		      const u32 *free, i64 unused, i64 next, u64 *rows, u64 *hashes, u8 *live,
		      u32 *slots, i64 bits, u32 *found, u32 *made)
{
	u64 mask = ((u64)1 << bits) - 1;
	i64 added = 0;

	for (i64 i = 0; i < count; i++) {
		const u64 *key = keys + absent[i] * width;
		u64 hashed = hash_of(key, width, secret);
		u64 slot = hashed >> (64 - bits);
		u32 row;

		while ((row = slots[slot]) &&
		       (hashes[row] != hashed || !equal(rows + row * width, key, width)))
			slot = (slot + 1) & mask;
		if (!row) {
			row = added < unused ? free[added] : (u32)(next + added - unused);
			made[added++] = slots[slot] = row;
			hashes[row] = hashed;
			live[row] = 1;
			for (i64 word = 0; word < width; word++)
				rows[row * width + word] = key[word];
		}
		found[absent[i]] = row;
	}
	return added;
}

EXPORT i64 intern_distinct(const u64 *keys, i64 width, const u64 *secret, const i64 *absent,
			   i64 count, u32 *scratch, i64 bits, i64 *first, u32 *number)
{
	u64 mask = ((u64)1 << bits) - 1;
	u32 distinct = 0;

	for (i64 i = 0; i < count; i++) {
		const u64 *key = keys + absent[i] * width;
		u64 slot = hash_of(key, width, secret) >> (64 - bits);

		/* A slot has the number of a distinct key, counted from 1. */
		while (scratch[slot] && !equal(keys + first[scratch[slot] - 1] * width, key, width))
			slot = (slot + 1) & mask;
		if (!scratch[slot]) {
			first[distinct] = absent[i];
			scratch[slot] = ++distinct;
		}
		number[i] = scratch[slot] - 1;
	}
	return distinct;
}

EXPORT i64 intern_claim(u32 *slots, i64 bits, const u32 *numbers, const u64 *hashes, i64 count)
{
	u64 mask = ((u64)1 << bits) - 1;

	for (i64 i = 0; i < count; i++) {
		u64 slot = hashes[i] >> (64 - bits);

		while (slots[slot])
			slot = (slot + 1) & mask;
		slots[slot] = numbers[i];
	}
	return count;
}

EXPORT i64 intern_hash(const u64 *keys, i64 count, i64 width, const u64 *secret, u64 *hashed)
{
	for (i64 i = 0; i < count; i++)
		hashed[i] = hash_of(keys + i * width, width, secret);
	return count;
}
