/* SPDX-License-Identifier: Apache-2.0
 *
 * Flows of ordinary datapath records: what parsers/headers.py, packet_columns.py and
 * datapath_flows.py make of them in many passes, in one. What is not ordinary, or may not be,
 * is told by number and goes through those modules.
 *
 * A field is read only after its end was compared with the record's.
 */
#include "kernels.h"

#define AHEAD 16 /* records whose first bytes are fetched while one is read */

enum kind { DROP = 1, CAPTURE = 3, TRACE = 4, POLICY_VERDICT = 5 };
enum l4 { L4_TCP = 1, L4_UDP, L4_ICMPV4, L4_ICMPV6, L4_SCTP };
enum verdict { FORWARDED = 1, DROPPED = 2, AUDIT = 4, REDIRECTED = 5 };
enum rule { FIXED, EGRESS_IF_OWN, INGRESS_IF_OWN, EGRESS_ALWAYS };

enum {
	LEAST_RECORD = 24, /* a capture's header, the shortest of all */
	FLAG_IPV6 = 1,
	FLAG_L3_DEVICE = 2,
	NOT_PLAIN = FLAG_L3_DEVICE | 4 | 8, /* no Ethernet, VXLAN, Geneve */
	REASON_REPLY = 2,
	REASON_UNKNOWN = 5,
	TO_PROXY = 1,
	INGRESS = 1,
	EGRESS = 2,
	REPLY_FALSE = 1,
	L3_L4 = 1,
	ORIGIN_CILIUM = 1,
	FLAG_ENCRYPTED = 1,
	FLAG_TCP_FLAGS = 2,
	IS_INTERFACE = 1,
	IS_PROXY_PORT = 2,
	MPTCP = 30,
};

#define MAPPED 0xFFFF0000ULL /* the second word of an IPv4 address, below its four bytes */

/* parsers/datapath.py lays it out; 0: none such. */
struct tables {
	u8 trace_length[4]; /* of the header, by version */
	u8 drop_length[4];
	u8 trace_reason[128]; /* flow.TraceReason, by the wire's */
	u8 is_reply[128];
	u8 v4_l4[256]; /* by protocol number */
	u8 v6_l4[256];
	u8 chunk[256]; /* flow.SCTPChunkType, by the wire's */
	u8 argument[256]; /* what a capture's argument is, by capture point */
};

struct packet {
	u64 source[2], destination[2];
	u64 version, l4, l4_type, l4_code, tcp_flags;
	u16 source_port, destination_port;
};

/* Whether TCP options are well-formed. Multipath TCP has rules of its own: it is not. */
static inline int options_are_sound(const u8 *at, const u8 *end)
{
	if (LIKELY(end - at == 12 && load32(at) == 0x0A080101)) /* NOP, NOP, timestamps */
		return 1;
	while (at < end && *at) {
		if (*at == 1) {
			at++;
			continue;
		}
		if (*at == MPTCP || end - at < 2 || at[1] < 2 || at[1] > end - at)
			return 0;
		at += at[1];
	}
	return 1;
}

/* The header at `at`, of which `size` bytes are there; 0: not an ordinary one. */
static inline int read_l4(const u8 *at, i64 size, const struct tables *tables,
			  struct packet *packet)
{
	packet->l4_type = packet->l4_code = packet->tcp_flags = 0;
	packet->source_port = packet->destination_port = 0;
	switch (packet->l4) {
	case L4_TCP: {
		i64 header;

		if (size < 20)
			return 0;
		header = at[12] >> 4 << 2;
		if (header < 20 || header > size)
			return 0;
		if (header > 20 && !options_are_sound(at + 20, at + header))
			return 0;
		packet->tcp_flags = big16(at + 12) & 0x1FF;
		break;
	}
	case L4_UDP: {
		u16 length;

		if (size < 8)
			return 0;
		length = big16(at + 4);
		if (length && length < 8)
			return 0;
		break;
	}
	case L4_SCTP:
		if (size < 12)
			return 0;
		packet->l4_type = size > 12 ? tables->chunk[at[12]] : 0;
		break;
	case L4_ICMPV4:
	case L4_ICMPV6:
		if (size < (packet->l4 == L4_ICMPV4 ? 8 : 4))
			return 0;
		packet->l4_type = at[0];
		packet->l4_code = at[1];
		return 1;
	default:
		return 0;
	}
	packet->source_port = big16(at);
	packet->destination_port = big16(at + 2);
	return 1;
}

/* The Ethernet frame at `at`, of which `available` bytes are there; 0: not an ordinary one. */
static inline int read_packet(const u8 *at, i64 available, const struct tables *tables,
			      struct packet *packet)
{
	i64 size, claimed;

	if (available < 34)
		return 0;
	if (LIKELY(load16(at + 12) == 0x0008)) { /* 0x0800 on the wire */
		/* No options, and neither more fragments nor an offset. */
		if ((at[14] & 15) != 5 || big16(at + 20) & 0x3FFF)
			return 0;
		packet->version = 1;
		packet->l4 = tables->v4_l4[at[23]];
		packet->source[0] = packet->destination[0] = 0;
		packet->source[1] = MAPPED | (u64)load32(at + 26) << 32;
		packet->destination[1] = MAPPED | (u64)load32(at + 30) << 32;
		claimed = (i64)big16(at + 16) - 20;
		size = available - 34;
		at += 34;
	} else if (load16(at + 12) == 0xDD86) {
		if (available < 54)
			return 0;
		packet->version = 2;
		packet->l4 = tables->v6_l4[at[20]];
		packet->source[0] = load64(at + 22);
		packet->source[1] = load64(at + 30);
		packet->destination[0] = load64(at + 38);
		packet->destination[1] = load64(at + 46);
		claimed = big16(at + 18);
		size = available - 54;
		at += 54;
	} else {
		return 0;
	}
	return read_l4(at, claimed < size ? claimed : size, tables, packet);
}

/* The source from before translation that a trace of version 1 on carries; 0: none. */
static inline int read_original(const u8 *at, u32 flags, u64 *source)
{
	source[0] = 0;
	if (flags & FLAG_IPV6) {
		source[0] = load64(at + 32);
		source[1] = load64(at + 40);
		if (!(source[0] | source[1]))
			return 0;
	} else {
		source[1] = MAPPED | (u64)load32(at + 32) << 32;
	}
	return source[0] || source[1] != MAPPED; /* 0.0.0.0 */
}

struct flow {
	u64 verdict, direction, is_reply, trace_reason, match_type, auth_type, encrypted;
	u64 interface, proxy_port;
	u64 own[2]; /* the packet's source where it is another than the flow's */
	u32 source_identity, destination_identity, drop_reason, site;
	u8 rule, translated;
};

/* What the record says beside its packet; 0: it says what is not ordinary. */
static inline int read_trace(const u8 *at, i64 header, u32 flags, const struct tables *tables,
			     struct packet *packet, struct flow *flow)
{
	u32 reason = at[26] & 0x7F;
	u64 source[2];

	flow->verdict = FORWARDED;
	flow->is_reply = tables->is_reply[reason];
	flow->trace_reason = tables->trace_reason[reason];
	flow->encrypted = at[26] >> 7 ? FLAG_ENCRYPTED : 0;
	flow->interface = load32(at + 28);
	flow->proxy_port = at[1] == TO_PROXY ? load16(at + 24) : 0;
	flow->source_identity = load32(at + 16);
	flow->destination_identity = load32(at + 20);
	if (load16(at + 2) && reason != REASON_UNKNOWN)
		flow->rule = reason == REASON_REPLY ? INGRESS_IF_OWN : EGRESS_IF_OWN;
	if (header >= 48 && read_original(at, flags, source)) {
		/* A translated source leaves, whether the reporter owns it or answers. */
		if (flow->rule != FIXED)
			flow->rule = EGRESS_ALWAYS;
		if (source[0] != packet->source[0] || source[1] != packet->source[1]) {
			flow->translated = 1;
			flow->own[0] = packet->source[0];
			flow->own[1] = packet->source[1];
			packet->source[0] = source[0];
			packet->source[1] = source[1];
		}
	}
	return header < 56 || !load64(at + 48); /* the trace id */
}

static inline int read_drop(const u8 *at, i64 header, struct flow *flow)
{
	flow->verdict = DROPPED;
	flow->drop_reason = at[1];
	flow->source_identity = load32(at + 16);
	flow->destination_identity = load32(at + 20);
	if (load16(at + 2))
		flow->rule = EGRESS_IF_OWN;
	/* Version, file, line. */
	flow->site = 1U << 31 | (u32)at[14] << 24 | (u32)at[30] << 16 | load16(at + 28);
	return header < 48 || !load64(at + 40); /* the trace id */
}

static inline void read_policy_verdict(const u8 *at, struct flow *flow)
{
	u32 verdict = load32(at + 20), bits = at[27];

	if (verdict >> 31) {
		flow->verdict = DROPPED;
		flow->drop_reason = -verdict;
	} else {
		flow->verdict = verdict ? REDIRECTED : bits & 0x40 ? AUDIT : FORWARDED;
		flow->is_reply = REPLY_FALSE;
	}
	flow->match_type = bits >> 3 & 7;
	flow->auth_type = at[28];
	if ((bits & 3) == 1) {
		flow->direction = INGRESS;
		flow->source_identity = load32(at + 16);
	} else {
		flow->direction = EGRESS;
		flow->destination_identity = load32(at + 16);
	}
}

static inline void read_capture(const u8 *at, const struct tables *tables, struct flow *flow)
{
	u32 argument = load32(at + 16);

	if (tables->argument[at[1]] & IS_INTERFACE)
		flow->interface = argument;
	if (tables->argument[at[1]] & IS_PROXY_PORT)
		flow->proxy_port = __builtin_bswap32(argument);
}

/* Length of the record's header, and its flags; 0: not an ordinary one. */
static inline i64 read_header(const u8 *at, i64 total, i64 verdict, const struct tables *tables,
			      u32 *flags)
{
	u8 version = at[14];
	i64 header;

	switch (at[0]) {
	case TRACE:
		header = version < 4 ? tables->trace_length[version] : 0;
		if (!header || total < header)
			return 0;
		*flags = at[27];
		return header;
	case DROP:
		header = version < 4 ? tables->drop_length[version] : 0;
		if (!header || total < header)
			return 0;
		*flags = version >= 2 ? at[36] : 0;
		return header;
	case POLICY_VERDICT:
		/* As long as the two lengths say where nobody told the release. */
		header = verdict ? verdict : (total - load16(at + 12)) >> 3 == 4 ? 32 : 40;
		if (total < header)
			return 0;
		/* Its IPv6 bit, elsewhere as well, is of no use here. */
		*flags = at[27] >> 7 ? FLAG_L3_DEVICE : 0;
		return header;
	case CAPTURE:
		*flags = 0;
		return LEAST_RECORD;
	default:
		return 0;
	}
}

EXPORT i64 datapath_flows(const u8 *buffer, i64 count, const i64 *rows, const i64 *offset,
			  const i64 *length, i64 verdict, const u8 *packed, u64 *key,
			  u64 *flow_class, u16 *source_port, u16 *destination_port, u32 *site,
			  u16 *reporter, u8 *rule, i64 *odd, i64 *translated, u64 *own,
			  i64 *many)
{
	const struct tables *tables = (const struct tables *)packed;
	i64 others = 0, changed = 0;

	for (i64 i = 0; i < count; i++, key += 8, flow_class += 4) {
		const u8 *at = buffer + offset[rows[i]];
		i64 total = length[rows[i]], header, available;
		struct flow flow = { 0 };
		struct packet packet;
		const u8 *frame;
		u32 flags;
		int ordinary = 1;

		if (i + AHEAD < count) {
			const u8 *next = buffer + offset[rows[i + AHEAD]];

			__builtin_prefetch(next);
			__builtin_prefetch(next + 64);
		}
		if (UNLIKELY(total < LEAST_RECORD))
			goto is_odd;
		header = read_header(at, total, verdict, tables, &flags);
		if (UNLIKELY(!header || flags & NOT_PLAIN))
			goto is_odd;
		frame = at + header;
		available = total - header;
		if (available > load16(at + 12))
			available = load16(at + 12);
		if (UNLIKELY(!read_packet(frame, available, tables, &packet)))
			goto is_odd;
		switch (at[0]) {
		case TRACE:
			ordinary = read_trace(at, header, flags, tables, &packet, &flow);
			break;
		case DROP:
			ordinary = read_drop(at, header, &flow);
			break;
		case POLICY_VERDICT:
			read_policy_verdict(at, &flow);
			break;
		default:
			read_capture(at, tables, &flow);
		}
		if (UNLIKELY(!ordinary))
			goto is_odd;
		/* CONVERSATION: addresses; MACs, which the frame has the other way round;
		 * identities; has_ethernet, ip_version. */
		key[0] = packet.source[0];
		key[1] = packet.source[1];
		key[2] = packet.destination[0];
		key[3] = packet.destination[1];
		key[4] = (load64(frame + 6) & 0xFFFFFFFFFFFF) | (u64)load16(frame) << 48;
		key[5] = load32(frame + 2) | (u64)flow.source_identity << 32;
		key[6] = flow.destination_identity;
		key[7] = (1 | packet.version << 8) << 32;
		/* FLOW_CLASS, a word after the other. */
		flow_class[0] = at[0] | (u64)at[1] << 8 | flow.verdict << 16 | flow.direction << 24 |
				flow.is_reply << 32 | (u64)L3_L4 << 40 | packet.version << 48 |
				packet.l4 << 56;
		flow_class[1] = flow.trace_reason | flow.match_type << 8 | flow.auth_type << 16 |
				(flow.encrypted | (packet.l4 == L4_TCP ? FLAG_TCP_FLAGS : 0)) << 24 |
				packet.l4_type << 32 | packet.l4_code << 40 | packet.tcp_flags << 48;
		flow_class[2] = ORIGIN_CILIUM << 16 | (u64)flow.drop_reason << 32;
		flow_class[3] = flow.interface | flow.proxy_port << 32;
		source_port[i] = packet.source_port;
		destination_port[i] = packet.destination_port;
		site[i] = flow.site;
		reporter[i] = load16(at + 2);
		rule[i] = flow.rule;
		if (UNLIKELY(flow.translated)) {
			own[2 * changed] = flow.own[0];
			own[2 * changed + 1] = flow.own[1];
			translated[changed++] = i;
		}
		continue;
is_odd:
		odd[others++] = i;
	}
	many[0] = others;
	many[1] = changed;
	return count - others;
}
