package main

import (
	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/cilium/cilium/pkg/hubble/parser/getters"
	"github.com/cilium/cilium/pkg/labels"
)

// Types of Hubble that differ between releases.

type (
	endpointInfo = getters.EndpointInfo
	l7Labels     = labels.LabelArray
)

func (e *endpoint) GetLabels() labels.Labels { return e.labels }

func toL7Labels(list []string) l7Labels { return labels.ParseLabelArrayFromArray(list) }

func setNodeLabels(f *flowpb.Flow, l []string) { f.NodeLabels = l }
