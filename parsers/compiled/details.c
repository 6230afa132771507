/* SPDX-License-Identifier: Apache-2.0
 *
 * What details of flows follow from; parsers/flow_details.py.
 */
#include "kernels.h"

enum answer { SOURCE_ENTITY, DESTINATION_ENTITY, NAMES, SOURCE_FRONTENDS, DESTINATION_FRONTENDS };
#define ANSWER 6 /* numbers of a conversation's answer */

/* Bytes of a FLOW_CLASS. */
#define DIRECTION 3
#define L4 7
#define POLICY_MATCH_TYPE 9
#define L4_TYPE 12
#define CLASS 32

#define INGRESS 1 /* flow.TrafficDirection */

EXPORT i64 details_wanted(const u32 *conversation, i64 count, const u32 *answers, const u32 *site,
			  const u8 *judged, u8 *wanted)
{
	i64 found = 0;

	for (i64 i = 0; i < count; i++) {
		const u32 *answer = answers + ANSWER * (i64)conversation[i];

		wanted[i] = (answer[SOURCE_FRONTENDS] | answer[DESTINATION_FRONTENDS] | site[i] |
			     judged[i]) != 0;
		found += wanted[i];
	}
	return found;
}

EXPORT i64 details_keys(const i64 *rows, i64 count, const u32 *conversation, const u32 *answers,
			const u32 *site, const u8 *judged, const u8 *flow_class,
			const u16 *source_port, const u16 *destination_port,
			const u32 *endpoint_id, const u32 *identity, u32 *keys)
{
	for (i64 i = 0; i < count; i++, keys += 8) {
		i64 row = rows[i];
		const u32 *answer = answers + ANSWER * (i64)conversation[row];
		const u8 *of = flow_class + CLASS * row;
		u32 source = answer[SOURCE_FRONTENDS], destination = answer[DESTINATION_FRONTENDS];
		u32 own = 0, peer = 0, judgement = source | destination ? of[L4] : 0, l4_type = 0;
		u32 from = source ? source_port[row] : 0;
		u32 to = destination ? destination_port[row] : 0;

		if (judged[row]) {
			int inward = of[DIRECTION] == INGRESS;

			own = endpoint_id[answer[inward ? DESTINATION_ENTITY : SOURCE_ENTITY]];
			peer = identity[answer[inward ? SOURCE_ENTITY : DESTINATION_ENTITY]];
			judgement = (u32)judged[row] << 24 | (u32)of[DIRECTION] << 16 |
				    (u32)of[POLICY_MATCH_TYPE] << 8 | of[L4];
			l4_type = of[L4_TYPE];
			to = destination_port[row];
		}
		keys[0] = site[row];
		keys[1] = source;
		keys[2] = own;
		keys[3] = peer;
		keys[4] = judgement;
		keys[5] = l4_type;
		keys[6] = from | to << 16;
		keys[7] = destination;
	}
	return count;
}
