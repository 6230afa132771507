package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"

	"github.com/cilium/cilium/pkg/hubble/parser/options"
)

func init() {
	commands["redacted"] = command{"write the L7 flows of a stream under several redaction settings", runRedacted}
}

// redaction holds the agent's hubble-redact-* settings of one file; all have
// the master switch on.
type redaction struct {
	Query    bool     `json:"http-urlquery"`
	UserInfo bool     `json:"http-userinfo"`
	Kafka    bool     `json:"kafka-apikey"`
	Allow    []string `json:"http-headers-allow,omitempty"`
	Deny     []string `json:"http-headers-deny,omitempty"`
}

var redactions = map[string]redaction{
	"defaults":      {UserInfo: true},
	"nothing-named": {},
	"query":         {Query: true, UserInfo: true},
	"allow":         {UserInfo: true, Allow: []string{"user-agent", "Accept"}},
	"deny":          {Query: true, Deny: []string{"cookie", "X-Request-Id"}},
	"kafka":         {Kafka: true, UserInfo: true, Deny: []string{"none"}},
}

func runRedacted(args []string) error {
	fs := flag.NewFlagSet("redacted", flag.ExitOnError)
	stream := fs.String("stream", "", "stream file")
	world := fs.String("world", "", "world.json")
	out := fs.String("out", "", "directory for <name>.flows.jsonl and settings.json")
	fs.Parse(args)
	w, err := loadWorld(*world)
	if err != nil {
		return err
	}
	payloads, err := readStream(*stream)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for name, r := range redactions {
		d, err := newDecoder(w)
		if err != nil {
			return err
		}
		d.lookup.options = []options.Option{withRedact(r)}
		if d.parser, err = newParser(d.lookup); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(*out, name+".flows.jsonl"))
		if err != nil {
			return err
		}
		buf := bufio.NewWriter(f)
		enc := json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		for i, p := range payloads {
			if err := enc.Encode(d.result(i, p)); err != nil {
				return err
			}
		}
		if err := buf.Flush(); err != nil {
			return err
		}
		f.Close()
	}
	raw, _ := json.MarshalIndent(redactions, "", " ")
	return os.WriteFile(filepath.Join(*out, "settings.json"), append(raw, '\n'), 0o644)
}
