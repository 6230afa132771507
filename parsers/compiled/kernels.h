/* SPDX-License-Identifier: Apache-2.0
 *
 * What every source here shares, and the functions that Python calls. Integers are
 * little-endian, as on every processor that an object is made for.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EXPORT __attribute__((visibility("default")))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "columns are little-endian");
_Static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "widths");

/* Reads from anywhere in a byte array; one instruction each. */
static inline u16 load16(const u8 *at) { u16 v; __builtin_memcpy(&v, at, 2); return v; }
static inline u32 load32(const u8 *at) { u32 v; __builtin_memcpy(&v, at, 4); return v; }
static inline u64 load64(const u8 *at) { u64 v; __builtin_memcpy(&v, at, 8); return v; }
static inline u16 big16(const u8 *at) { return __builtin_bswap16(load16(at)); }

/* --- framing.c --------------------------------------------------------------------------- */

/* Where messages of `buffer` (`size` bytes) start, at most `limit` of them.
 *
 * starts[limit]: offsets of whole messages. state[0]: where the last of them ends; state[1]: 1
 * when it stopped at a length prefix that is not one of the three usual forms. Returns how many.
 */
EXPORT i64 framing_walk(const u8 *buffer, i64 size, i64 limit, i64 *starts, i64 *state);

/* The usual samples among `count` messages: Data, maybe CPU, and Type 9.
 *
 * bounds[count + 1]: where each starts, and where the last ends, in `raw`. prefix[width]: the
 * payload's type id and the step to Data. offset, length, cpu, usual[count]: filled where a
 * message is usual; elsewhere usual is 0 and the others are as they were. Returns how many are.
 */
EXPORT i64 framing_decode(const u8 *raw, i64 count, const i64 *bounds, const u8 *prefix, i64 width,
			  i64 *offset, i64 *length, i64 *cpu, u8 *usual);

/* --- intern.c ---------------------------------------------------------------------------- */

/* The row of each key of `width` words; 0 for the zero key and for the absent.
 *
 * keys[count * width]; secret[width + 1]: odd factors of their hash; rows[... * width] and
 * hashes[...]: by row number; slots[1 << bits]: row numbers, 0 where free. found[count];
 * absent[count]: which keys were not there, in order. Returns how many those are.
 */
EXPORT i64 intern_find(const u64 *keys, i64 count, i64 width, const u64 *secret, const u64 *rows,
		       const u64 *hashes, const u32 *slots, i64 bits, u32 *found, i64 *absent);

/* Make rows of the keys[absent[0 .. count]], each distinct one once; there is room for all.
 *
 * free[unused]: row numbers to take first, then those from `next` on. rows, hashes, live and slots
 * as above (live: 1 for a row in use), written to. found: rows of the absent keys are filled in.
 * made[count]: the new rows, by first appearance. Returns how many those are.
 */
EXPORT i64 intern_add(const u64 *keys, i64 width, const u64 *secret, const i64 *absent, i64 count,
		      const u32 *free, i64 unused, i64 next, u64 *rows, u64 *hashes, u8 *live,
		      u32 *slots, i64 bits, u32 *found, u32 *made);

/* The distinct ones among keys[absent[0 .. count]], numbered by first appearance.
 *
 * scratch[1 << bits]: zeroes, at least twice `count`. first[count]: the place in `keys` of each
 * distinct one; number[count]: which of them each absent key is. Returns how many are distinct.
 */
EXPORT i64 intern_distinct(const u64 *keys, i64 width, const u64 *secret, const i64 *absent,
			   i64 count, u32 *scratch, i64 bits, i64 *first, u32 *number);

/* Put row numbers into free slots, of which there are enough. hashes[count]: of their keys. */
EXPORT i64 intern_claim(u32 *slots, i64 bits, const u32 *numbers, const u64 *hashes, i64 count);

/* hashed[count]: the hash of each key of `width` words. */
EXPORT i64 intern_hash(const u64 *keys, i64 count, i64 width, const u64 *secret, u64 *hashed);

/* --- conversations.c --------------------------------------------------------------------- */

/* What is kept beside each conversation; _KEPT of parsers/conversations.py. */
struct kept {
	i64 since, until; /* when the answer of the current row holds */
	u32 current;	  /* by first row, the version asked for last; 0: none yet */
	u32 first, next;
	u32 pad;
};

/* The current row of each key as it was at a time (ns).
 *
 * first[count]: rows of the keys' first versions; kept[...]: by row. rows[count]: the current
 * versions. stale[count]: where that does not hold at time[count]. Returns how many those are.
 */
EXPORT i64 conversations_at(const u32 *first, const i64 *time, i64 count, const struct kept *kept,
			    u32 *rows, i64 *stale);

/* Prepare what is kept of made[count] new rows: nothing was asked yet, as of `ever` (ns).
 *
 * keys[8 * ...]: by row. buckets[2 * ...]: of both addresses, by row.
 */
EXPORT i64 conversations_begin(const u32 *made, i64 count, const u64 *keys, i64 ever,
			       struct kept *kept, u16 *buckets);

/* The direction of each flow by its rule; `directions` of parsers/flow_columns.py.
 *
 * conversation[count]: rows of answers[6 * ...], the first number of which is the row of the
 * source in endpoint_id. rule[count], reporter[count]. flow_class[32 * count]: the fourth byte is
 * the direction, which is written where the rule is not 0.
 */
EXPORT i64 conversations_directions(const u32 *conversation, i64 count, const u32 *answers,
				    const u32 *endpoint_id, const u8 *rule, const u16 *reporter,
				    u8 *flow_class);

/* --- addresses.c ------------------------------------------------------------------------- */

/* Numbers of IPv4 addresses; parsers/ipv4_rows.py.
 *
 * addresses[2 * count]: words of 16 bytes each. page_of[1 << 24]: where a /24 begins in `numbers`.
 * rows[count]: filled in for IPv4, 0 for others. others[count]: which are not IPv4. Returns how
 * many those are.
 */
EXPORT i64 addresses_find(const u64 *addresses, i64 count, const u32 *page_of, const u32 *numbers,
			  u32 *rows, i64 *others);

/* What rows[count] had at time[count] (ns), as far as it follows from what they have now.
 *
 * numbers[...], since[...]: by row. number, began, until[count]: filled in; until is `forever`.
 * early[count]: events before the last change, which a timeline must answer. Returns how many.
 */
EXPORT i64 addresses_at(const u32 *rows, const i64 *time, i64 count, const u32 *numbers,
			const i64 *since, i64 forever, u32 *number, i64 *began, i64 *until,
			i64 *early);

/* --- details.c --------------------------------------------------------------------------- */

/* Which flows have a detail that follows from columns: a site, a service, a judgement.
 *
 * conversation[count]: rows of answers[6 * ...], whose numbers 3 and 4 are frontends of the source
 * and the destination. site[count], judged[count]. wanted[count]: 1 or 0. Returns how many are 1.
 */
EXPORT i64 details_wanted(const u32 *conversation, i64 count, const u32 *answers, const u32 *site,
			  const u8 *judged, u8 *wanted);

/* What the details of rows[count] follow from; _KEY of parsers/flow_details.py.
 *
 * The other columns are by row: flow_class[32 * ...], ports, what `details_wanted` has; numbers 0
 * and 1 of an answer are rows of endpoint_id[...] and identity[...]. keys[8 * count].
 */
EXPORT i64 details_keys(const i64 *rows, i64 count, const u32 *conversation, const u32 *answers,
			const u32 *site, const u8 *judged, const u8 *flow_class,
			const u16 *source_port, const u16 *destination_port,
			const u32 *endpoint_id, const u32 *identity, u32 *keys);
/* --- datapath.c -------------------------------------------------------------------------- */

/* Flows of the ordinary records among `count` of `buffer`, which are drops, captures, traces
 * and policy verdicts.
 *
 * Ordinary is a known version, an ordinary packet (parsers/packet_columns.py) and nothing that
 * no column holds, a source from before translation excepted: no trace id.
 *
 * rows[count]: which of offset[], length[] they are. verdict: a policy verdict's header length
 * (32, 40), 0 where the release is not known. tables: as parsers/datapath.py lays them out.
 * key[count * 8]: CONVERSATION; flow_class[count * 4]: FLOW_CLASS; source_port,
 * destination_port, site, reporter, rule[count]: of FlowColumns. odd[count]: which records are
 * not ordinary, in order; what the columns have there means nothing. translated[count]: which
 * ordinary ones came from another address than their packet, in order; own[count * 2]: of each
 * of them in turn, the packet's. many[0], many[1]: how many are odd, and translated. Returns how
 * many are ordinary.
 */
EXPORT i64 datapath_flows(const u8 *buffer, i64 count, const i64 *rows, const i64 *offset,
			  const i64 *length, i64 verdict, const u8 *tables, u64 *key,
			  u64 *flow_class, u16 *source_port, u16 *destination_port, u32 *site,
			  u16 *reporter, u8 *rule, i64 *odd, i64 *translated, u64 *own,
			  i64 *many);
/* --- access_log.c ------------------------------------------------------------------------ */

/* The usual access-log records among `count`, found by pieces that are known.
 *
 * offset[count], length[count]: where they lie in `buffer`, behind whose last record 192 bytes
 * can be read. shape[10]: see `struct shape`; begin[]: the definitions and the node that records
 * begin with; arena, entries, slots: the pieces. found[11][count]: numbers of the meanings of
 * kind, source, destination and labels; the ports; ns since the epoch; and offsets in `parts`: the
 * end of the record's protocol part, and within that the request id, its end, and the trace id of
 * 32 digits, 0 for none. A record that must be decoded has kind 0, and a part of no length.
 * parts[]: one behind the other; as long as all records and 8 bytes more. Returns how much of
 * that is used.
 */
EXPORT i64 access_log_walk(const u8 *buffer, i64 count, const i64 *offset, const i64 *length,
			   const i64 *shape, const u8 *begin, const u8 *arena, const u8 *entries,
			   const u32 *slots, i64 *found, u8 *parts);

/* Remember pieces, which stand one behind the other, and 8 bytes behind the last.
 *
 * told[count][4]: bytes by which the piece is found, bytes that must follow, and `sort` and
 * `traits` of `struct entry`. One with the same head and sort is forgotten. Puts the number of
 * each piece, -1 where it cannot be kept, into told[..][0]. Returns how many there was room for.
 */
EXPORT i64 access_log_learn(i64 *shape, u8 *arena, u8 *entries, u32 *slots, const u8 *pieces,
			    i64 count, i64 *told);
