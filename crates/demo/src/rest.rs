//! Whether there is anything left to wait for.

use drop_api::CachedImage;
use drop_api::cached_image::ImagePullPolicy;
use drop_api::condition;
use drop_core::image::Image;
use drop_core::node::Node;
use drop_sim::Lab;

/// Reasons of Ready that stay until somebody changes something.
const LASTING: [&str; 4] = ["Cached", "NoMatchingNodes", "Paused", "PullPolicyNotFound"];

/// Whether nothing will change any more but the number of tries of what cannot be pulled.
pub(crate) fn is_at_rest(lab: &Lab) -> bool {
    let mut pulling =
        lab.api.pods.values().flat_map(|live| live.pod.containers.iter().map(|container| (&live.pod.node, container)));
    lab.next_at().is_none()
        || pulling.all(|(node, container)| lab.cannot_pull(node, &container.image))
            && lab.api.images.values().all(|object| is_settled(lab, object))
}

fn is_settled(lab: &Lab, object: &CachedImage) -> bool {
    let (Some(image), Some(status)) = (Image::from_api(object), &object.status) else { return false };
    let Some(ready) = condition::ready(&status.conditions) else { return false };
    let lacks_it = |node: &&Node| !lab.is_on_disk(&node.name, &image.reference);
    let mut missing = lab.targets_of(&image).into_iter().filter(lacks_it).peekable();
    let is_lost = missing.peek().is_some() && missing.all(|node| lab.cannot_pull(&node.name, &image.reference));
    // After three images of one registry the others are not tried.
    let was_tried = || {
        let mut over = lab.record.pods.iter().filter(|pod| pod.gone_at.is_some()).flat_map(|pod| &pod.order.pulls);
        over.any(|pull| pull.reference.host() == image.reference.host())
    };
    LASTING.contains(&ready.reason.as_str()) || image.pull == ImagePullPolicy::Never || (is_lost && was_tried())
}
