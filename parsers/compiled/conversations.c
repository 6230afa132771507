/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations and who speaks in them: what parsers/conversations.py asks of each event.
 */
#include "kernels.h"

_Static_assert(sizeof(struct kept) == 32, "as numpy lays _KEPT out");

#define AHEAD 8 /* rows that are fetched before they are looked at */

EXPORT i64 conversations_at(const u32 *first, const i64 *time, i64 count, const struct kept *kept,
			    u32 *rows, i64 *stale)
{
	i64 found = 0;

	for (i64 i = 0; i < count; i++) {
		const struct kept *at = &kept[first[i]];

		if (i + AHEAD < count)
			__builtin_prefetch(&kept[first[i + AHEAD]]);
		rows[i] = at->current;
		stale[found] = i;
		found += time[i] >= at->until || time[i] < at->since;
	}
	return found;
}

/* buckets_of of parsers/address_table.py: the halves of the words, folded. */
static inline u16 bucket_of(const u64 *address)
{
	u64 folded = address[0] ^ address[1];

	folded ^= folded >> 32;
	return (u16)(folded ^ folded >> 16);
}

EXPORT i64 conversations_begin(const u32 *made, i64 count, const u64 *keys, i64 ever,
			       struct kept *kept, u16 *buckets)
{
	for (i64 i = 0; i < count; i++) {
		i64 row = made[i];
		const u64 *key = keys + 8 * row;

		kept[row] = (struct kept){ .since = ever, .until = ever, .first = made[i] };
		buckets[2 * row] = bucket_of(key);
		buckets[2 * row + 1] = bucket_of(key + 2);
	}
	return count;
}

enum rule { FIXED, EGRESS_IF_OWN, INGRESS_IF_OWN, EGRESS_ALWAYS };

EXPORT i64 conversations_directions(const u32 *conversation, i64 count, const u32 *answers,
				    const u32 *endpoint_id, const u8 *rule, const u16 *reporter,
				    u8 *flow_class)
{
	for (i64 i = 0; i < count; i++) {
		u16 owner = (u16)endpoint_id[answers[6 * (i64)conversation[i]]];
		int egress = reporter[i] == owner;

		if (rule[i] == FIXED)
			continue;
		egress ^= rule[i] == INGRESS_IF_OWN;
		egress |= rule[i] == EGRESS_ALWAYS;
		flow_class[32 * i + 3] = (u8)(1 + egress);
	}
	return count;
}
